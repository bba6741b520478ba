"""One method per file, and the contract that all of them keep (path, warm_path, optimum)."""
