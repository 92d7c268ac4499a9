"""Who may ask how often, and what is refused when there is no room."""
