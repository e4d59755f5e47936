"""A model spread over several processes, and the state that differs between them."""
