"""The TensorBoard tab: a loader that cannot stop TensorBoard, a backend that reads logs, the screen in static/."""
