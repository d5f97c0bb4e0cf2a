"""The parts of `why_relu_works.py`: data, networks, observation, races, claims, and the page."""
