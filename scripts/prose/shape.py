"""The shape of Rust source: functions, types, closures and error variants."""

from typing import NamedTuple

PAIRS = {"(": ")", "[": "]", "{": "}"}
TYPE_KEYWORDS = ("struct", "enum", "trait", "type", "union")
ITEM_KEYWORDS = TYPE_KEYWORDS + ("mod", "impl", "fn")

# The signature of a trait's method is the trait's, and is measured at the trait.
TRAIT_IMPL = "impl for"


class Item(NamedTuple):
    """A named item: index of its keyword, name, and the kinds of item around it."""

    index: int
    keyword: str
    name: str
    scope: tuple


class Function(NamedTuple):
    """A function with a body; lines are inclusive, those of the braces too."""

    name: str
    first_line: int
    body_line: int
    last_line: int
    parameters: list
    signature_is_given: bool
    body: tuple


def closing_marks(tokens):
    """Maps the index of each opening bracket to that of its closing one."""
    closing, stack = {}, []
    for index, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        if token.text in PAIRS:
            stack.append(index)
        elif stack and token.text == PAIRS[tokens[stack[-1]].text]:
            closing[stack.pop()] = index
    return closing


def items_of(tokens):
    """Returns the named items of a file, with the kinds of item that enclose each."""
    items, scope, pending = [], [], None
    for index, token in enumerate(tokens):
        text = token.text
        if token.kind == "word":
            if pending is None and text in ITEM_KEYWORDS and is_item(tokens, index):
                pending = text
                items.append(Item(index, text, tokens[index + 1].text, tuple(scope)))
            elif pending == "impl" and text == "for" and tokens[index + 1].text != "<":
                pending = TRAIT_IMPL
        elif token.kind == "mark":
            if text == "{":
                scope.append(pending or "block")
                pending = None
            elif text == "}" and scope:
                scope.pop()
            elif text == ";":
                pending = None

    return [item for item in items if item.keyword != "impl"]


def is_item(tokens, index):
    """Distinguishes the keyword of an item from `fn(..)` and `impl Trait`."""
    if index + 1 >= len(tokens):
        return False
    if tokens[index].text == "impl":
        return index == 0 or tokens[index - 1].text in ("}", ";", "{", "]", "unsafe")
    return tokens[index + 1].kind == "word"


def functions_of(tokens, items, closing):
    """Returns the functions that have a body."""
    functions = []
    for item in items:
        if item.keyword != "fn":
            continue

        start = parameters_start(tokens, item.index + 2)
        end = closing.get(start)
        body = body_start(tokens, end, closing)
        if body is None:
            continue

        functions.append(Function(
            name=item.name,
            first_line=tokens[item.index].line,
            body_line=tokens[body].line,
            last_line=tokens[closing[body]].line,
            parameters=split_parameters(tokens[start + 1:end]),
            signature_is_given=item.scope[-1:] == (TRAIT_IMPL,),
            body=(body, closing[body]),
        ))
    return functions


def parameters_start(tokens, index):
    """Finds the parenthesis after the name and the generic parameters."""
    depth = 0
    while index < len(tokens) and (depth > 0 or tokens[index].text != "("):
        depth += {"<": 1, ">": -1}.get(tokens[index].text, 0)
        index += 1
    return index


def body_start(tokens, index, closing):
    """Finds the brace of the body; None for a declaration without one."""
    while index is not None and index < len(tokens):
        text = tokens[index].text
        if text == "{":
            return index if index in closing else None
        if text == ";":
            return None
        # An array type in a result contains a semicolon.
        index = closing.get(index, index) + 1
    return None


def split_parameters(tokens):
    """Splits a parameter list at its commas; the receiver is left out."""
    parameters, current, depth = [], [], 0
    for token in tokens:
        if token.kind == "mark":
            depth += {"<": 1, "(": 1, "[": 1, ">": -1, ")": -1, "]": -1}.get(token.text, 0)
            if token.text == "," and depth == 0:
                parameters.append(current)
                current = []
                continue
        current.append(token.text)

    if current:
        parameters.append(current)
    return [words for words in parameters if "self" not in words[:4]]


def has_bool(function):
    """Checks for a parameter whose whole type is `bool`."""
    return any(words[-2:] == [":", "bool"] for words in function.parameters)


def is_test(lines, function):
    """Checks for the attribute of a test among the lines above a function."""
    number = function.first_line - 2
    while number >= 0 and lines[number].strip().startswith(("#[", "//")):
        if lines[number].strip() == "#[test]":
            return True
        number -= 1
    return False


def arranges_and_asserts(body):
    """Checks for both a binding and an assertion among the outermost statements of a body."""
    indent = min(len(line) - len(line.lstrip()) for line in body)
    outermost = [line[indent:] for line in body]
    return all(any(line.startswith(word) for line in outermost) for word in ("let ", "assert"))


def closures_of(tokens, function):
    """Yields name, line and number of uses of each closure with a name."""
    start, end = function.body
    for index in range(start, end - 3):
        if tokens[index].text != "let" or tokens[index + 1].kind != "word":
            continue

        name = tokens[index + 1].text
        value = index + 3 if tokens[index + 2].text == "=" else None
        if value is not None and tokens[value].text == "move":
            value += 1
        if value is not None and tokens[value].text in ("|", "||"):
            uses = sum(1 for later in range(value, end)
                       if tokens[later].text == name and tokens[later - 1].text != ".")
            yield name, tokens[index].line, uses


def bare_string_variants(tokens, items, closing):
    """Yields enum, variant and line of error variants that hold one string only."""
    for item in items:
        if item.keyword != "enum" or not is_error(tokens, item):
            continue

        start = next(index for index in range(item.index, len(tokens)) if tokens[index].text == "{")
        index = start + 1
        while index < closing[start]:
            texts = [token.text for token in tokens[index:index + 4]]
            if tokens[index].kind == "word" and texts[1:] == ["(", "String", ")"]:
                yield item.name, texts[0], tokens[index].line
            # Fields and attributes are skipped as a whole.
            index = closing.get(index, index) + 1


def is_error(tokens, item):
    """Recognizes an error enum by its name or its derived traits."""
    if item.name.endswith("Error"):
        return True

    index = item.index - 1
    attributes = []
    while index >= 0 and tokens[index].text not in (";", "}", "{"):
        attributes.append(tokens[index].text)
        index -= 1
    return "derive" in attributes and "Error" in attributes
