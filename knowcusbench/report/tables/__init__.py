"""Tables as text: console, CSV and JSON, Markdown, LaTeX."""
