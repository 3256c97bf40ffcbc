"""Finding texts by their vectors, and how alike two texts are: as trained, and after contrastive fine-tuning."""
