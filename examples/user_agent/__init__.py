"""An application's own `UserAgent`: its public face stays, its memory is ours."""
