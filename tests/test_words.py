"""The field's words in American spelling, of which docs/glossary.md has the list."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
# What no file may have, and what is written instead. Samples are drawn; a reference implementation is not.
BRITISH = r"(?:normalis|initialis|quantis|regularis|optimis|serialis|summaris|recognis)(?:e|ing|ation)"
BRITISH += r"|[Cc]olour|[Bb]ehaviour|[Nn]eighbour|\b[Gg]rey\b|\b[Cc]entred?\b"
PRIVATE = r"whole number|like_trained|way_on|join_last|shuffle_last|written out|written_out|ChannelDeal|\bdeals?\b"
PRIVATE += (
    r"|\bpictures?\b|a fresh network|training with rounding|\b[Tt]wins?\b|\b[Dd]rawn\(|drawn in numpy|\b[Dd]rawings?\b"
)
FORBIDDEN = re.compile(f"{BRITISH}|{PRIVATE}")
# Files and options of former names are read, and here the names stand.
ALLOWED = {
    ("strided_channel_shuffle.py", "ChannelDeal"),
    ("test_strided_channel_shuffle.py", "ChannelDeal"),
    ("CHANGELOG.md", "ChannelDeal"),
    ("benchmark.py", "picture"),
    ("export.py", "pictures"),
    ("folder_layout.py", "picture"),
    ("test_network_commands.py", "picture"),
    ("test_network_commands.py", "pictures"),
}
PROGRAMS = ("keras_sharenets", "trainers", "tuning", "benchmarks", "tools", "examples", "tests")
FILES = [path for folder in PROGRAMS for path in sorted((ROOT / folder).rglob("*.py")) if path.name != "test_words.py"]
FILES += [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs").glob("notebooks/*.ipynb")),
    *sorted(ROOT.glob("*.md")),
]


def test_words():
    found = {}
    for path in FILES:
        words = {word for word in FORBIDDEN.findall(path.read_text()) if (path.name, word) not in ALLOWED}
        if words:
            found[path.relative_to(ROOT).as_posix()] = words
    assert len(FILES) > 500
    assert not found, "docs/glossary.md has the words of the field"
