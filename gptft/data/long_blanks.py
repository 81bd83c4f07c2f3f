"""Long runs of blanks, on which tiktoken panics. Skip this file on a first reading.

The regular expression of GPT-2 overflows the stack of tiktoken's matcher, a panic that Python code
can't sensibly catch, on a run of about a million blanks. Such a run comes from a damaged file or an
attacker. So it is cut out of its text and encoded separately, to the same ids.
"""

import re

import tiktoken

LONG_TEXT = 100_000  # characters: a shorter text is safe
BLANK = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"  # tiktoken's \s
# The last blank before a word is not part of the run: if it is a space, it belongs to the word.
LONG_RUN = re.compile(rf"(?<!{BLANK}){BLANK}{{{LONG_TEXT},}}(?={BLANK}|$)")


def encode_long(text, encoding, ranks):
    """A text of any length -> list[int], the ids that encoding.encode_ordinary would give.

    ranks: dict, bytes -> id, those of the tiktoken.Encoding.
    """
    ids = []
    start = 0
    for run in LONG_RUN.finditer(text):
        one_piece = tiktoken.Encoding(
            "one piece", pat_str="(?s:.+)", mergeable_ranks=ranks, special_tokens={}
        )
        ids += encoding.encode_ordinary(text[start : run.start()])
        ids += one_piece.encode_ordinary(run[0])
        start = run.end()
    return ids + encoding.encode_ordinary(text[start:])
