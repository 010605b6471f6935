"""What starts, repairs and speeds up Jittor; nothing here knows of bilevel problems."""
