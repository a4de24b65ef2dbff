"""Tests of the program itself, on small samples."""

import unittest

from . import habits, shape, sources
from .lexers import COMMENT, STRING, blocks_of, lex_rust
from .measures import Tally, count_shape

# Samples are written with these, so that they are no habits of this file.
WHAT, WHERE = "what", "Where"


def run():
    """Runs the tests and returns the exit code."""
    suite = unittest.defaultTestLoader.loadTestsFromName(__name__)
    return 0 if unittest.TextTestRunner(verbosity=0).run(suite).wasSuccessful() else 1


def texts(language, text, kind=COMMENT, path="sample"):
    """Returns line and trimmed text of the blocks of one kind."""
    blocks = blocks_of(sources.Source(path, language, text))
    return sorted((block.line, block.text.strip()) for block in blocks if block.kind == kind)


def functions(text):
    """Returns the functions of a Rust sample by name."""
    tokens = lex_rust(text)[0]
    result = shape.functions_of(tokens, shape.items_of(tokens), shape.closing_marks(tokens))
    return {function.name: function for function in result}


def tally_of(*files):
    """Measures the shape of Rust samples, given as pairs of path and text."""
    tally, definitions = Tally(), {}
    for path, text in files:
        source = sources.Source(path, sources.RUST, text)
        count_shape(tally, source, lex_rust(text)[0], definitions)
    return tally, definitions


class RustLexer(unittest.TestCase):
    """Comments, literals and tokens of Rust."""

    def test_comment_marks_in_literals_are_no_comments(self):
        text = 'let a = "x // y"; let b = "\\"/*"; // real\n'
        self.assertEqual(texts(sources.RUST, text), [(1, "real")])
        self.assertEqual(texts(sources.RUST, text, STRING), [(1, '"/*'), (1, "x // y")])

    def test_raw_strings_end_at_their_hashes(self):
        text = 'let a = r#"one " // two"#; let b = br"\\"; // real\nlet r#type = 1;'
        self.assertEqual(texts(sources.RUST, text), [(1, "real")])
        self.assertEqual(texts(sources.RUST, text, STRING), [(1, "\\"), (1, 'one " // two')])

    def test_lifetimes_are_no_char_literals(self):
        text = "fn f<'a, 'b>(x: &'a str, y: &'b str) -> char { '\"' } // real\n"
        self.assertEqual(texts(sources.RUST, text), [(1, "real")])
        self.assertEqual(texts(sources.RUST, text, STRING), [])

    def test_chars_with_escapes(self):
        text = r"""let a = ['\'', '"', '\\', '\u{2f}', b'/', '/']; // real"""
        self.assertEqual(texts(sources.RUST, text), [(1, "real")])

    def test_block_comments_nest(self):
        text = "/* one /* two */ three */ let x = 1; /** four\n * five */\n// six"
        self.assertEqual(texts(sources.RUST, text),
                         [(1, "four\nfive"), (1, "one /* two */ three"), (3, "six")])

    def test_doc_attributes_are_comments(self):
        text = '#[doc = "One two"]\n#[error("three four")]\nenum E {}'
        self.assertEqual(texts(sources.RUST, text), [(1, "One two")])
        self.assertEqual(texts(sources.RUST, text, STRING), [(2, "three four")])

    def test_comments_of_one_kind_are_joined(self):
        text = "/// a\n/// b\n// c\nx // d\n// e\n"
        self.assertEqual(texts(sources.RUST, text), [(1, "a\nb"), (3, "c"), (4, "d"), (5, "e")])

    def test_fences_in_doc_comments_are_no_prose(self):
        text = "/// one\n/// ```\n/// let x = 1;\n/// ```\n/// two `three` four\n"
        self.assertEqual(texts(sources.RUST, text), [(1, "one\n\n\n\ntwo \u00a7 four")])

    def test_lines_after_a_continued_literal(self):
        text = 'let a = "one \\\n    two";\n// real\n'
        self.assertEqual(texts(sources.RUST, text, STRING), [(1, "one \ntwo")])
        self.assertEqual(texts(sources.RUST, text), [(3, "real")])


class OtherLexers(unittest.TestCase):
    """Markdown, Python, shell and configuration."""

    def test_markdown_leaves_out_code(self):
        text = "one\n```sh\ntwo\n```\n``three ` four`` [five](six.md)\n"
        self.assertEqual(texts(sources.MARKDOWN, text), [(1, "one\n\n\n\n\u00a7 [five]")])

    def test_longer_fences_hold_shorter_ones(self):
        text = "````\n```\ninside\n````\noutside\n"
        self.assertEqual(texts(sources.MARKDOWN, text), [(1, "outside")])

    def test_tables_of_reports_are_no_prose(self):
        text = "one\n| two | 3 |\n"
        report = texts(sources.MARKDOWN, text, path="docs/benchmarks/results.md")
        self.assertEqual(report, [(1, "one")])

    def test_python(self):
        text = ('#!/usr/bin/python3\n"""Doc # 1."""\n'
                'x = f("# two", \'three\')  # four\n"""\nfive"""\n')
        self.assertEqual(texts(sources.PYTHON, text), [(2, "Doc # 1."), (3, "four"), (4, "five")])
        self.assertEqual(texts(sources.PYTHON, text, STRING), [(3, "# two"), (3, "three")])

    def test_shell(self):
        text = ('#!/bin/sh\n# one\necho "# $# two" ${x#y} \'# z\' # three\n'
                'cat <<"END"\n# four\nEND\n# five\n')
        self.assertEqual(texts(sources.SHELL, text), [(2, "one"), (3, "three"), (7, "five")])

    def test_configuration(self):
        self.assertEqual(texts(sources.OTHER, "# one\n#\n# two\n#key = 1\n"), [(1, "one\n\ntwo")])

    def test_scripts_are_recognized_by_their_first_line(self):
        self.assertEqual(sources.language_of("a/b", "#!/usr/bin/env python3\n"), sources.PYTHON)
        self.assertEqual(sources.language_of("a/b", "#!/bin/sh -e\n"), sources.SHELL)
        self.assertEqual(sources.language_of("a/b.toml", "x = 1\n"), sources.OTHER)


class Habits(unittest.TestCase):
    """Words, phrases and sentences."""

    def test_words_and_phrases(self):
        vocabulary = habits.Vocabulary({"one": "alpha|beta", "two": "gamma+delta"})
        count, hits = vocabulary.search("Alpha's gamma\ndelta. alphabet gamma, delta")
        self.assertEqual((count, hits), (6, [("one", 0), ("two", 14)]))

    def test_sentences(self):
        text = (f"# {WHERE} x\n\nOne {WHAT} two. {WHERE} y? e.g. {WHAT} z.\n\n"
                f"- {WHAT} a\n| {WHAT} | b |\n")
        lines = [text.count("\n", 0, offset) + 1 for offset in habits.question_sentences(text)]
        self.assertEqual(lines, [1, 3, 5, 6])

    def test_literals_that_are_prose(self):
        cases = {
            "cannot open {path}": True,
            "full sync ({reason})": True,
            "etc/passwd": False,
            "{a} {b}": False,
            "echo one two": False,
            "key one = 1": False,
            "one two && three": False,
        }
        for text, expected in cases.items():
            block = blocks_of(sources.Source("a.rs", sources.RUST, f'"{text}"'))[0]
            self.assertEqual(habits.is_prose(block), expected, text)


class Shape(unittest.TestCase):
    """Functions, types, closures and variants."""

    def test_parameters(self):
        text = ("impl X { fn a<F: Fn(u8) -> Vec<u8>>(&self, m: Map<K, V>, b: bool) -> [u8; 2] {}\n"
                "fn b(self: Box<Self>); }\nfn c(f: impl Fn(bool) -> bool, t: (u8, bool),) {}")
        result = functions(text)
        self.assertEqual({name: len(f.parameters) for name, f in result.items()}, {"a": 2, "c": 2})
        self.assertEqual([name for name, f in result.items() if shape.has_bool(f)], ["a"])

    def test_signatures_of_traits_are_given(self):
        result = functions("impl<'a> T for X<'a> { fn a(b: bool) {} }\nimpl X { fn b() {} }")
        self.assertTrue(result["a"].signature_is_given)
        self.assertFalse(result["b"].signature_is_given)

    def test_functions_without_a_blank_line(self):
        body = "    step();\n" * 8
        tally, _ = tally_of(("tests/a.rs", f"fn wall() {{\n{body * 2}}}\n"
                             f"fn split() {{\n{body}\n{body}}}\nfn short() {{\n{body}}}\n"))
        self.assertEqual([hit.text for hit in tally.hits["walls"]],
                         ["fn wall: 16 lines without a blank one"])

    def test_tests_without_a_blank_line(self):
        act = "    let a = b();\n" * 7
        table = "    for a in b {\n" + "        c();\n" * 6 + "    }\n"
        bodies = {"wall": act + "    assert!(a);\n", "split": act + "\n    assert!(a);\n",
                  "table": table, "no_test": act + "    assert!(a);\n"}
        text = "".join(("" if name == "no_test" else "#[test]\n") + f"fn {name}() {{\n{body}}}\n"
                       for name, body in bodies.items())
        tally, _ = tally_of(("tests/a.rs", text))
        self.assertEqual([hit.text for hit in tally.hits["test-walls"]],
                         ["fn wall: 8 lines without a blank one"])

    def test_functions_that_are_too_long(self):
        tally, _ = tally_of(("src/a.rs", "fn a() {\n" + "x();\n" * 79 + "}\n"
                             "fn b() {\n" + "x();\n" * 78 + "}\n"))
        self.assertEqual([hit.text for hit in tally.hits["long-functions"]], ["fn a: 81 lines"])

    def test_types_at_item_level(self):
        text = ("struct A; mod m { enum B {} }\n"
                "impl I for A { type C = u8; fn f() { struct D; } }\n"
                "type E = fn(u8); const F: u8 = { 1 };")
        definitions = tally_of(("src/a.rs", text))[1]
        self.assertEqual(sorted(definitions), ["A", "B", "E"])

    def test_closures(self):
        text = "fn f() { let a = |x| x; let b = move || 1; a(1); b(); s.b(); b() }"
        tokens = lex_rust(text)[0]
        result = shape.closures_of(tokens, functions(text)["f"])
        self.assertEqual([(name, uses) for name, _, uses in result], [("a", 1), ("b", 2)])

    def test_variants_with_a_bare_string(self):
        text = ("enum AError { #[error(\"x\")] B(String), C(String, u8), D { e: String } }\n"
                "#[derive(Debug, thiserror::Error)]\npub enum F { G(String) }\n"
                "enum H { I(String) }")
        tally, _ = tally_of(("src/a.rs", text))
        self.assertEqual([hit.text for hit in tally.hits["bare-string-errors"]],
                         ["AError::B(String)", "F::G(String)"])
