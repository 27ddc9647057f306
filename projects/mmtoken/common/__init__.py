"""Words that all papers share; imports torch and mmengine only."""
