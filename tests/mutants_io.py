"""Wrong edits of reading, writing and the command line; see mutants.py. Each is (file, original, replacement)."""

from __future__ import annotations

TESTS = "test_report test_cli test_snapshot test_write_tensorboard"

EDITS = [
    ("report/steps.py", "if later < step:", "if later <= step:"),
    ("report/steps.py", "if _ALWAYS not in values:", "if not values:"),
    (
        "report/steps.py",
        'content if len(content) % dtype.itemsize == 0 else b""',
        "content[: len(content) // dtype.itemsize * dtype.itemsize]",
    ),
    (
        "report/records.py",
        "if left >= _HEADER.size + length + _CHECKSUM.size else _CUT_OFF",
        "if left >= _HEADER.size + length else _CUT_OFF",
    ),
    ("report/records.py", "if masked_crc32c(data) == checksum:", "if True:"),
    ("report/records.py", "if masked_crc32c(header[:8]) != checksum:", "if False:"),
    ("report/episodes.py", "if logged.session != session:", "if False:"),
    ("report/episodes.py", "_SLUG.fullmatch(v)", "_SLUG.match(v)"),
    ("report/read.py", "key=natural):", "):"),
    ("report/read.py", "if run.snapshots or run.problems)", "if run.snapshots)"),
    ("report/run.py", "-max(weight", "max(weight"),
    ("report/table.py", "min(max(100 * value, 0.1), 99.9)", "100 * value"),
    ("write/stock.py", "most - len(chosen)", "most"),
    ("write/stock.py", "del extra[_EXTRA_LAYERS:]", "pass"),
    ("write/pack.py", "largest <= most", "largest <= most + 1"),
    ("write/pack.py", 'if column.dtype.kind != metadata["kind"][0]:', "if False:"),
    ("write/codec.py", "_NONE if line is None else line", "line or _NONE"),
    ("write/codec.py", '("I", "<u4")', '("I", "<u2")'),
    ("write/codec.py", "unzip.decompress(blob.tobytes(), _LARGEST_BYTES)", "unzip.decompress(blob.tobytes())"),
    (
        "write/tensorboard.py",
        "histogram_proto(site.grad_histogram)",
        "histogram_proto(site.grad_histogram, site.low, site.high)",
    ),
    ("write/tensorboard.py", "if outline != self._outline:", "if True:"),
    ("write/tensorboard.py", "if tag in self._described:", "if False:"),
    ("write/tensorboard.py", "% _STOCK_HISTOGRAM_EVERY == 0", "% 1 == 0"),
    (
        "write/tensorboard.py",
        "self._begin(send, writer.flush, writer.flush, detail)",
        "self._begin(send, writer.flush, writer.close, detail)",
    ),
    ("write/tensorboard.py", "if kept and kept[-1] == counts[i] == 0:", "if kept and counts[i] == 0:"),
    ("write/markdown.py", '.replace("&", "&amp;")', ""),
    ("write/markdown.py", "f.resolved_step is not None, ", ""),
    ("write/jsonl.py", "self._file.flush()", "pass"),
    ("rounding.py", "after if after == after else None", "after"),
    ("rounding.py", "0.0 if v is None else v for v in given", "0.0 for v in given"),
    ("rounding.py", "math.inf if value > 0 else -math.inf", "math.inf"),
    ("snapshot.py", 'spell_in(value) if known[name] == "float" else value', "spell_in(value)"),
    ("cli.py", "    except OSError as error:\n        # what", "    except ValueError as error:\n        # what"),
    ("cli.py", 'text.encode(encoding, "backslashreplace").decode(encoding)', "text"),
    ("cli.py", "FAILED if failed else OK", "OK"),
    ("cli.py", "near[0]", "near"),
]
