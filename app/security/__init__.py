"""Who may call and how often. It knows no money and no web framework."""
