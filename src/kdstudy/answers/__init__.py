"""What a text answers: numbers, choices, labels, steps; read by named rules, without torch.

numerals.py      numbers in running text
number_words.py  numbers in English words
extract.py       named answer-extraction rules
gold.py          a corpus row's right answer, and whether a text gives it
number_rule.py   those for numbers
letter_rule.py   those for the letters of options
labels.py        those for labels such as option2 or true
label_names.py   how labels are written, by a benchmark and in free text
turns.py         a completion's own turn, without prompt, transcript and run-on
statements.py    what it states as its answer, denies, supposes or calls unknown
quantities.py    what a question asks for, and the numbers that can be it
sentences.py     which number of a sentence is its answer
option_text.py   which option a text names by the option's own words
steps.py         the steps a reasoning text takes, and which two texts share
equations.py     equations in running text
arithmetic.py    an expression as single operations
corrupt.py       a worked answer with another result in it
repetition.py    how much a text repeats itself
"""
