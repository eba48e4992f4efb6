"""Arithmetic with its working, as plain text and as conversations; numbers up to 999."""
from zlib import crc32

HELD_OUT_IN = 20
"""One problem in this many is only ever used for held-out text."""

NAMES = ["Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Ida", "Jack", "Kate", "Leo", "Mary", "Tom"]
THINGS = ["apples", "books", "coins", "eggs", "pens", "stones", "letters", "cards", "cakes", "flowers", "stamps", "shells"]


def is_held_out(problem):
    return crc32(problem.encode()) % HELD_OUT_IN == 0


def places(n):
    """47 -> [7, 40]: the parts of a number by place, smallest first, without zeros."""
    parts = [int(digit) * 10**power for power, digit in enumerate(reversed(str(n)))]
    return [part for part in parts if part] or [0]


def addition(a, b):
    """The lines of working of a + b, the last one being the result."""
    if a < 10 and b < 10:
        return [f"{a} + {b} = {a + b}"]
    total, lines = a, []
    for part in reversed(places(b)):
        lines.append(f"{total} + {part} = {total + part}")
        total += part
    return lines if len(lines) == 1 else lines + [f"{a} + {b} = {a + b}"]


def subtraction(a, b):
    total, lines = a, []
    for part in reversed(places(b)):
        lines.append(f"{total} - {part} = {total - part}")
        total -= part
    return lines if len(lines) == 1 else lines + [f"{a} - {b} = {a - b}"]


def multiplication(a, b):
    """a has one digit."""
    parts = places(b)
    if len(parts) == 1:
        return [f"{a} * {b} = {a * b}"]
    products = [a * part for part in reversed(parts)]
    lines = [f"{a} * {part} = {product}" for part, product in zip(reversed(parts), products)]
    return lines + [" + ".join(map(str, products)) + f" = {a * b}", f"{a} * {b} = {a * b}"]


def division(a, b):
    """Exact: a = b * quotient."""
    return [f"{b} * {a // b} = {a}", f"{a} / {b} = {a // b}"]


def number(random):
    return random.randint(2, random.choice([9, 20, 99, 99, 99, 999]))


def problem(random):
    """(the problem as text, the lines of its working)"""
    kind = random.choice("+++--**/")
    if kind == "+":
        a, b = number(random), number(random)
        return f"{a} + {b}", addition(a, b)
    if kind == "-":
        b, a = sorted((number(random), number(random)))
        return f"{a} - {b}", subtraction(a, b)
    if kind == "*":
        a, b = random.randint(2, 9), random.randint(2, random.choice([9, 12, 99, 99]))
        return f"{a} * {b}", multiplication(a, b)
    b, quotient = random.randint(2, 9), random.randint(2, 12)
    return f"{b * quotient} / {b}", division(b * quotient, b)


def story(random):
    """(the problem as text, a question in words, the lines of the answer)"""
    who, other = random.sample(NAMES, 2)
    things = random.choice(THINGS)
    a, b = number(random) % 100 + 2, random.randint(2, 20)
    if random.random() < 0.4:
        question = random.choice([
            f"{who} has {a} {things}. {other} gives {who} {b} more. How many {things} does {who} have now?",
            f"There are {a} {things} in one box and {b} in another. How many {things} are there together?",
        ])
        return f"{a} + {b}", question, addition(a, b) + [f"The answer is {a + b} {things}."]
    if random.random() < 0.5:
        a += b
        question = random.choice([
            f"{who} has {a} {things} and gives {b} of them to {other}. How many {things} are left?",
            f"{who} had {a} {things} and lost {b}. How many {things} does {who} still have?",
        ])
        return f"{a} - {b}", question, subtraction(a, b) + [f"The answer is {a - b} {things}."]
    a, b = random.randint(2, 9), random.randint(2, 30)
    question = f"{who} buys {a} boxes with {b} {things} each. How many {things} is that?"
    return f"{a} * {b}", question, multiplication(a, b) + [f"The answer is {a * b} {things}."]


def riddle(random):
    """(the problem as text, a question, the lines of the answer): order, doubles, sequences, odd and even."""
    a, b = number(random), number(random)
    kind = random.randrange(4)
    if kind == 0 and a != b:
        return f"{a} > {b}", f"Which is larger, {a} or {b}?", [f"{max(a, b)} is larger than {min(a, b)}."]
    if kind == 1:
        return f"2 * {a}", f"What is twice {a}?", [f"Twice {a} is {a} + {a} = {2 * a}."]
    if kind == 2:
        step, start = random.randint(2, 9), random.randint(1, 30)
        row = [start + step * k for k in range(8)]
        return f"{start} by {step}", "How does it go on: " + ", ".join(map(str, row[:4])) + "?", [", ".join(map(str, row[4:]))]
    return f"{a} odd", f"Is {a} even or odd?", [f"{a} is {'odd' if a % 2 else 'even'}."]


def question(random):
    """(the problem as text, the question, the answer)"""
    kind = random.random()
    if kind < 0.3:
        name, text, lines = story(random)
    elif kind < 0.4:
        name, text, lines = riddle(random)
    else:
        name, lines = problem(random)
        text = random.choice(["What is {}?", "What is {}?", "{}", "{} = ?", "How much is {}?", "Please compute {}."]).format(name)
    return name, text, "\n".join(lines)


def document(random, held_out, conversation):
    """One document; `conversation` makes it from [(question, answer), ...]."""
    while True:
        turns = [question(random) for _ in range(random.choice([1, 1, 1, 2, 3]))]
        plain = [problem(random) for _ in range(3)]
        chat = random.random() < 0.5
        names = [turn[0] for turn in turns] if chat else [sum_[0] for sum_ in plain]
        if any(is_held_out(name) != held_out for name in names):
            continue
        if chat:
            return conversation([turn[1:] for turn in turns])
        return "\n\n".join("\n".join([name, *lines]) for name, lines in plain) + "\n"
