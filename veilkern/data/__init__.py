"""What comes in and goes out: people, photos, files."""
