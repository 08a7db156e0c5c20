"""What a person sees of a study: the league, figures, one page."""
