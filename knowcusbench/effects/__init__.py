"""What an adaptation does to everything else: to answers, prompt embeddings and pictures, and to other concepts."""
