"""Lexers: comments and string literals of each language, and the tokens of Rust."""

import re
from typing import NamedTuple

from . import sources

COMMENT, STRING = "comment", "string"

# Replaces inline code, so that the words around it do not become neighbours.
CODE_MARK = "\u00a7"
# Replaces an escaped line break in a literal: a new paragraph on the same source line.
BREAK_MARK = "\u00b6"


class Block(NamedTuple):
    """A comment, a literal or a document. Its n-th line is source line `line + n`."""

    kind: str
    line: int
    text: str


class Token(NamedTuple):
    """A word, a mark, a literal or a lifetime of Rust."""

    kind: str
    text: str
    line: int


def blocks_of(source):
    """Returns the comments and literals of a file, with code samples blanked out."""
    if source.language == sources.RUST:
        return lex_rust(source.text)[1]
    if source.language == sources.MARKDOWN:
        return [Block(COMMENT, 1, prose_of_markdown(source))]
    if source.language == sources.PYTHON:
        return lex_python(source.text)
    if source.language == sources.SHELL:
        return lex_shell(source.text)
    return lex_configuration(source.text)


# ---- Rust

RUST_TOKEN = re.compile(
    r"""
    (?P<newline>\n)
  | (?P<comment>//[^\n]*)
  | (?P<block>/\*)
  | (?P<raw>[bc]?r(?P<hashes>\#*)"[\s\S]*?"(?P=hashes))
  | (?P<string>[bc]?"[^"\\]*(?:\\[\s\S][^"\\]*)*")
  | (?P<char>b?'(?:[^'\\\n]|\\(?:u\{[^}]*\}|x..|.))')
  | (?P<lifetime>'\w+)
  | (?P<word>(?:r\#)?[A-Za-z_]\w*|\d\w*)
  | (?P<mark>->|=>|::|\|\||[{}()\[\]<>;,:|&=\#!.*?])
    """,
    re.VERBOSE,
)
BLOCK_EDGE = re.compile(r"/\*|\*/")
LINE_COMMENT = re.compile(r"(//[/!]?) ?")
RAW_STRING = re.compile(r'[bc]?r(#*)"')


def lex_rust(text):
    """Splits Rust source into code tokens and blocks of prose."""
    tokens, blocks, comments = [], [], []
    for kind, piece, line in rust_pieces(text):
        if kind == "comment":
            alone = not tokens or tokens[-1].line != line
            comments.append((line, piece, alone))
        elif kind == "block":
            blocks.append(Block(COMMENT, line, without_code(strip_stars(piece))))
        else:
            if kind in ("raw", "string"):
                block_kind = COMMENT if in_doc_attribute(tokens) else STRING
                blocks.append(Block(block_kind, line, rust_literal(kind, piece)))
                # A literal ends on its last line, which decides whether a comment is alone.
                line += piece.count("\n")
            tokens.append(Token(kind, piece, line))

    return tokens, blocks + joined_comments(comments)


def rust_pieces(text):
    """Yields kind, text and first line of each lexical element, comments included."""
    position, line = 0, 1
    while position is not None:
        start, position = position, None
        for match in RUST_TOKEN.finditer(text, start):
            kind, piece = match.lastgroup, match.group()
            if kind == "newline":
                line += 1
                continue

            if kind == "block":
                position = end_of_block_comment(text, match.start())
                piece = text[match.start():position]
            yield kind, piece, line

            if kind in ("block", "raw", "string"):
                line += piece.count("\n")
            # The rest is lexed from the end of the comment, which the pattern cannot find.
            if kind == "block":
                break


def end_of_block_comment(text, start):
    """Finds the end of a block comment, which may contain others."""
    depth = 0
    for edge in BLOCK_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def in_doc_attribute(tokens):
    """Checks whether the next literal is the text of `#[doc = ...]`."""
    return [token.text for token in tokens[-3:]] == ["[", "doc", "="]


def rust_literal(kind, piece):
    """Returns the content of a literal; each source line stays one line."""
    if kind == "raw":
        opening = RAW_STRING.match(piece)
        return piece[opening.end():len(piece) - 1 - len(opening.group(1))]
    return unescape(piece[piece.index('"') + 1:-1])


def unescape(text):
    """Resolves the escapes that matter for words and sentences."""
    if "\\" not in text:
        return text
    text = re.sub(r"\\\n[ \t]*", "\n", text)
    text = re.sub(r"\\[nrt]", BREAK_MARK, text)
    return re.sub(r"\\(.)", r"\1", text)


def strip_stars(piece):
    """Removes the edges of a block comment and the stars that begin its lines."""
    inner = re.sub(r"\A/\*[*!]?|\*/\Z", "", piece)
    return re.sub(r"(?m)^[ \t]*\*? ?", "", inner)


def joined_comments(comments):
    """Joins line comments of one kind on consecutive lines into blocks."""
    groups = []
    previous = None
    for line, piece, alone in comments:
        opening = LINE_COMMENT.match(piece)
        kind = opening.group(1) if alone else None
        if alone and previous == (line - 1, kind):
            groups[-1][1].append(piece[opening.end():])
        else:
            groups.append((line, [piece[opening.end():]]))
        previous = (line, kind)

    return [Block(COMMENT, line, without_code("\n".join(texts))) for line, texts in groups]


# ---- Markdown, in documents and in doc comments

FENCE = re.compile(r"^[ \t>]*(```+|~~~+)")
INLINE_CODE = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n[ \t]*\n)[\s\S])+?)(?<!`)\1(?!`)")
LINK_TARGET = re.compile(r"\]\([^)\s]*\)")

# Generated reports: tables of numbers are no prose, sentences between them are.
REPORTS = re.compile(r"^docs/benchmarks/")


def prose_of_markdown(source):
    """Returns a document without code samples and without tables of measurements."""
    text = without_code(source.text)
    return re.sub(r"(?m)^\|.*$", "", text) if REPORTS.match(source.path) else text


def without_code(text):
    """Blanks fenced code, inline code and link targets; lines keep their numbers."""
    if "```" in text or "~~~" in text:
        text = "\n".join(outside_fences(text.split("\n")))
    if "`" in text:
        text = INLINE_CODE.sub(lambda code: CODE_MARK + "\n" * code.group().count("\n"), text)
    return LINK_TARGET.sub("]", text) if "](" in text else text


def outside_fences(lines):
    """Yields the lines with those of fenced code replaced by empty ones."""
    fence = None
    for line in lines:
        edge = FENCE.match(line)
        if edge is None:
            yield line if fence is None else ""
            continue

        if fence is None:
            fence = edge.group(1)
        elif edge.group(1).startswith(fence):
            fence = None
        yield ""


# ---- Python

PYTHON_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*)
  | (?P<long>[A-Za-z]{0,2}(?P<quotes>\"\"\"|\'\'\')(?P<body>(?:\\[\s\S]|[\s\S])*?)(?P=quotes))
  | (?P<short>[A-Za-z]{0,2}(?P<quote>["'])
              (?P<content>(?:\\[\s\S]|(?!(?P=quote))[^\\\n])*)(?P=quote))
  | (?P<word>\w+)
    """,
    re.VERBOSE,
)


def lex_python(text):
    """Returns comments, docstrings and literals of Python."""
    blocks, comments = [], []
    lines = LineCounter(text)
    for match in PYTHON_TOKEN.finditer(text):
        line = lines.at(match.start())
        before = text[text.rfind("\n", 0, match.start()) + 1:match.start()]
        alone = not before.strip()

        if match.group("comment") is not None:
            if not (line == 1 and match.group().startswith("#!")):
                comments.append((line, match.group("comment").lstrip("#"), alone))
        elif match.group("long") is not None and alone:
            blocks.append(Block(COMMENT, line, without_code(match.group("body"))))
        elif match.group("word") is None:
            content = match.group("body") or match.group("content") or ""
            blocks.append(Block(STRING, line, unescape(content)))

    return blocks + joined_hashes(comments)


class LineCounter:
    """Line numbers of ascending offsets."""

    def __init__(self, text):
        self.text = text
        self.offset = 0
        self.line = 1

    def at(self, offset):
        """Returns the line of an offset not below the one asked for before."""
        self.line += self.text.count("\n", self.offset, offset)
        self.offset = offset
        return self.line


# ---- Shell and configuration

SHELL_TOKEN = re.compile(
    r"""
    (?P<comment>(?:(?<=[\s;])|\A)\#[^\n]*)
  | \\[\s\S]
  | '[^']*'
  | "[^"\\]*(?:\\[\s\S][^"\\]*)*"
  | (?<!<)<<-?[ ]*["']?(?P<mark>\w+)["']?[^\n]*\n[\s\S]*?^\t*(?P=mark)$
    """,
    re.VERBOSE | re.MULTILINE,
)

def lex_shell(text):
    """Returns the comments of a shell script."""
    comments = []
    lines = LineCounter(text)
    for match in SHELL_TOKEN.finditer(text):
        if match.group("comment") is not None:
            line = lines.at(match.start())
            before = text[text.rfind("\n", 0, match.start()) + 1:match.start()]
            comments.append((line, match.group().lstrip("#"), not before.strip()))

    if text.startswith("#!"):
        comments = comments[1:]
    return joined_hashes(comments)


def lex_configuration(text):
    """Returns whole-line comments with a space after the `#`; others are settings."""
    numbered = enumerate(text.split("\n"), 1)
    comments = [(line, piece[1:], True) for line, piece in numbered
                if piece.startswith("# ") or piece == "#"]
    return joined_hashes(comments)


def joined_hashes(comments):
    """Joins `#` comments on consecutive lines into blocks."""
    return joined_comments([(line, "//" + piece, alone) for line, piece, alone in comments])
