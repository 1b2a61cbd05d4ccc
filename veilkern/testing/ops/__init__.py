"""What the table says of each op: one module a stem, whose ENTRIES are the public functions of that stem."""
