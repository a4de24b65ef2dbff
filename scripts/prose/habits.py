"""Habits of wording: forbidden words, and sentences that begin with a question word."""

import re

from .lexers import BREAK_MARK, COMMENT

WORD = re.compile(r"([A-Za-z]+)(?:['\u2019][A-Za-z]+)?")

# A literal is prose if two words follow each other. Placeholders are no words.
PLACEHOLDER = re.compile(r"\{[^{}\n]*\}|%[sdr]")
NEIGHBOURS = re.compile(r"[A-Za-z]{2,}[,;:.]? [A-Za-z]{2,}")

# Marks of commands, scripts, settings and source text, which are samples of tests.
CODE = re.compile(
    r"""
    ^\#(?:!|include|$)|\$[\w({"]|&&|\|\||[<>]&|>/|>>       # shell, preprocessor
  | (?<![:/])//|\w::\w|\w\(\)|\w\(.*\);$|\};$|=>|->     # source text
  | ^\s*\[\w+\]$|^\s*[\w ]+\s=\s                           # settings
  | ;\s(?:do|done|exit|fi)\b
  | ^\s*(?:import|def|use|fn|if\ \[|touch|echo|rm|mkdir|exec|exit\ \d|set\ [-\w]+=|sleep)\s
    """,
    re.MULTILINE | re.VERBOSE,
)

QUESTION = r"(?P<word>what|whatever|who|whoever|where)\b"
# A block, a paragraph, a heading, a list item, a table cell: any case.
PARAGRAPH = re.compile(
    r"(?:\A|\n[ \t]*\n|\n(?=[ \t]*(?:[-*+#>|]|\d+[.)]))|\|[ \t]|" + BREAK_MARK + r")"
    r"(?:[\s\-*+#>|(\"'\u201c_\[]|\d+[.)]\s)*" + QUESTION,
    re.IGNORECASE,
)
# A sentence inside a paragraph: capitals only, since `e.g. where` begins none.
SENTENCE = re.compile(r"[.!?][\"')*_\u201d]*\s+[(\"'*_\u201c\[]*(?i:" + QUESTION + ")")


def is_prose(block):
    """Decides whether the words of a block count. Comments always do."""
    if block.kind == COMMENT:
        return True
    text = PLACEHOLDER.sub("_", block.text).replace(BREAK_MARK, "\n")
    return bool(NEIGHBOURS.search(text)) and not CODE.search(text)


class Vocabulary:
    """Finds the words and two-word phrases of each habit in one pass."""

    def __init__(self, habits):
        """`habits` maps the name of a habit to its words: `one|two|a+phrase`."""
        self.names = {}
        for name, phrases in habits.items():
            for phrase in phrases.split("|"):
                self.names[phrase.replace("+", " ")] = name

    def search(self, text):
        """Returns the number of words, and a list of habit and offset for each hit."""
        count, hits = 0, []
        previous, end = "", -1
        for match in WORD.finditer(text):
            count += 1
            word = match.group(1).lower()
            phrase = previous + " " + word

            if word in self.names:
                hits.append((self.names[word], match.start()))
            if phrase in self.names and text[end:match.start()].isspace():
                hits.append((self.names[phrase], match.start()))
            previous, end = word, match.end()

        return count, hits


def question_sentences(text):
    """Returns the offset of each sentence that begins with a question word."""
    offsets = {match.start("word") for match in PARAGRAPH.finditer(text)}
    for match in SENTENCE.finditer(text):
        if match.group("word")[0].isupper():
            offsets.add(match.start("word"))
    return sorted(offsets)
