from ._python_corpus import load_python_corpus
