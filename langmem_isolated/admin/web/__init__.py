"""What every page has: security headers, CSRF tokens, forms, references, templates."""
