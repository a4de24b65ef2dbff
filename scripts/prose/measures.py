"""Counts of hits, and of the words, lines and functions that they are shares of."""

import os
from collections import Counter, defaultdict
from typing import NamedTuple, Optional

from . import habits, shape, sources
from .lexers import COMMENT, blocks_of, lex_rust

COMMENT_WORDS, LITERAL_WORDS = "words of comments", "words of literals"
RUST_LINES, LONG_FUNCTIONS = "Rust lines", "functions of 15 lines or more"

# Counts of hits, and of different texts among the hits.
NUMBER, NAMES = "number", "names"

# Measures of literals have the name of the measure of comments and this suffix.
IN_LITERALS = ".literals"

LONG_FUNCTION, FUNCTION_LIMIT = 15, 80
LONG_TEST = 8
PARAMETER_LIMIT, COLUMN_LIMIT = 5, 100

CRATE_FOLDERS = ("src/", "tests/", "benches/", "examples/")


class Measure(NamedTuple):
    """A habit: hits for each `scale` of `base`; `NUMBER` and `NAMES` are plain counts."""

    name: str
    base: str
    scale: int
    level: Optional[float]
    reason: str


class Hit(NamedTuple):
    """A place that breaks a rule."""

    path: str
    line: int
    text: str


class Tally:
    """Hits of each measure, and sizes of each file."""

    def __init__(self):
        self.hits = defaultdict(list)
        self.sizes = defaultdict(Counter)

    def add(self, measure, path, line, text):
        """Records one hit."""
        self.hits[measure].append(Hit(path, line, " ".join(text.split())))

    def value(self, measure, folder=""):
        """Returns the value of a measure for the paths below a folder."""
        texts = [hit.text for hit in self.hits[measure.name] if hit.path.startswith(folder)]
        if measure.base == NUMBER:
            return len(texts)
        if measure.base == NAMES:
            return len(set(texts))

        size = self.size(measure.base, folder)
        return len(texts) * measure.scale / size if size else 0.0

    def size(self, base, folder=""):
        """Returns the words, lines or functions below a folder."""
        return sum(count for path, count in self.sizes[base].items() if path.startswith(folder))


def tally_tree(root, vocabulary):
    """Measures all files below a root."""
    tally = Tally()
    definitions = {}
    for source in sources.read_sources(os.path.abspath(root)):
        if source.language == sources.RUST:
            tokens, blocks = lex_rust(source.text)
            if source.path.startswith(CRATE_FOLDERS):
                count_shape(tally, source, tokens, definitions)
        else:
            blocks = blocks_of(source)
        count_words(tally, source, blocks, vocabulary)

    count_duplicates(tally, definitions)
    return tally


def count_words(tally, source, blocks, vocabulary):
    """Counts habits of wording in the comments and literals of a file."""
    lines = source.text.split("\n")
    for block in blocks:
        if not habits.is_prose(block):
            continue

        comment = block.kind == COMMENT
        text = block.text if comment else habits.PLACEHOLDER.sub("{}", block.text)
        count, hits = vocabulary.search(text)
        tally.sizes[COMMENT_WORDS if comment else LITERAL_WORDS][source.path] += count

        hits += [("sentences", offset) for offset in habits.question_sentences(text)]
        for name, offset in hits:
            line = block.line + text.count("\n", 0, offset)
            name += "" if comment else IN_LITERALS
            tally.add(name, source.path, line, lines[line - 1])


def count_shape(tally, source, tokens, definitions):
    """Counts long lines, types and functions of a Rust file."""
    lines = source.text.split("\n")
    tally.sizes[RUST_LINES][source.path] += len(lines) - 1
    for number, line in enumerate(lines, 1):
        if len(line) > COLUMN_LIMIT:
            tally.add("long-lines", source.path, number, line)

    items, closing = shape.items_of(tokens), shape.closing_marks(tokens)
    for function in shape.functions_of(tokens, items, closing):
        count_function(tally, source.path, lines, function)
        for name, line, uses in shape.closures_of(tokens, function):
            tally.add("named-closures", source.path, line, name)
            if uses == 1:
                tally.add("closures-used-once", source.path, line, name)

    if source.path.startswith("src/"):
        for enum, variant, line in shape.bare_string_variants(tokens, items, closing):
            tally.add("bare-string-errors", source.path, line, f"{enum}::{variant}(String)")
        for item in items:
            if item.keyword in shape.TYPE_KEYWORDS and set(item.scope) <= {"mod"}:
                definitions.setdefault(item.name, []).append((source.path, tokens[item.index].line))


def count_function(tally, path, lines, function):
    """Counts a function against the limits of its length and its parameters."""
    def add(measure, detail):
        tally.add(measure, path, function.first_line, f"fn {function.name}: {detail}")

    body = lines[function.body_line:function.last_line - 1]
    if len(body) >= LONG_FUNCTION:
        tally.sizes[LONG_FUNCTIONS][path] += 1
        if all(line.strip() for line in body):
            add("walls", f"{len(body)} lines without a blank one")

    if len(body) >= LONG_TEST and shape.is_test(lines, function):
        if all(line.strip() for line in body) and shape.arranges_and_asserts(body):
            add("test-walls", f"{len(body)} lines without a blank one")

    length = function.last_line - function.first_line + 1
    if length > FUNCTION_LIMIT and path.startswith(("src/", "tests/")):
        add("long-functions", f"{length} lines")

    if path.startswith("src/") and not function.signature_is_given:
        if len(function.parameters) > PARAMETER_LIMIT:
            add("parameters", f"{len(function.parameters)} parameters")

    if path.startswith(("src/", "tests/")) and not function.signature_is_given:
        if shape.has_bool(function):
            add("bool-parameters", "a bool parameter")


def count_duplicates(tally, definitions):
    """Records each definition of the types that have several."""
    for name, places in sorted(definitions.items()):
        if len(places) > 1:
            for path, line in places:
                tally.add("duplicate-types", path, line, f"{name}: {len(places)} definitions")
