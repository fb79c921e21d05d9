"""Knowledge editors: closed-form and gradient edits of the text encoder's rows."""
