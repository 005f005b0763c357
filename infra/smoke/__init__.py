"""`make smoke STACK=…`: checks a deployed stack from the outside, delivers one document, and writes a report."""
