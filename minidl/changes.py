"""A count of what might make a program out of date: attributes of layers, places of parameters.

Programs know exactly what they were made for (`lowering.signature`), but to compare that takes
longer than to predict a row. As long as this number stays the same nothing has changed anywhere.
"""

version = 0
