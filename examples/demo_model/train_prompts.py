"""Prompts that train_report.py shows in the model card and keeps greedy continuations of."""

PROMPTS = {
    "prose": [
        "It was a", "She had been", "In the beginning", "The database file", "Mr. Knightley was", "They said to him,",
        "He went out of the house and", "The young lady", "When the king heard this, he", "Moses said to the people,",
        "Elizabeth was", "The SELECT statement", "My dear Emma,",
    ],
    "code": [
        "def add(", "import os\n", "class Node:\n    def __init__(self", "for i in range(", "def is_empty(self):\n    return",
        "    try:\n        return", "def __repr__(self):\n", "if not isinstance(", "def read_file(path):\n",
        "class Error(Exception):\n", "def main():\n", "G = nx.Graph()\n", "if __name__ ==",
    ],
    "sums": [
        "12 + 7\n", "58 + 31\n", "7 * 36\n", "84 / 7\n", "90 - 48\n", "241 + 56\n", "9 * 9\n", "66 - 5\n", "35 / 5\n",
        "73 + 18\n", "4 * 52\n", "81 - 37\n",
    ],
}
"""Candidates; the clearest of each domain are kept."""

CHATS = [
    ("prose", [{"role": "user", "content": "Who are you?"}]),
    ("prose", [{"role": "user", "content": "Tell me a story."}]),
    ("code", [{"role": "user", "content": "Write a Python function `is_empty`."}]),
    ("sums", [{"role": "user", "content": "What is 47 + 85?"}]),
    ("sums", [{"role": "user", "content": "What is 6 * 47?"}, {"role": "assistant", "content": "6 * 40 = 240\n6 * 7 = 42\n240 + 42 = 282\n6 * 47 = 282"},
              {"role": "user", "content": "How much is 30 - 12?"}]),
    ("sums", [{"role": "system", "content": "You answer briefly."},
              {"role": "user", "content": "Tom has 14 apples and gives 5 of them to Ida. How many apples are left?"}]),
]

SAMPLES = [
    ("It was a truth", False), ("And he said to them,", False), ("The young lady", False),
    ("def read_lines(path):\n", False), ("class Queue:\n", False),
    ("47 + 85\n", False), ("7 * 63\n", False),
    ("What is 238 + 57?", True), ("Emma buys 6 boxes with 14 cards each. How many cards is that?", True), ("Who are you?", True),
    ("Write a Python function `count`.", True), ("Tell me a story.", True),
]
"""(prompt, is it a chat?)"""
