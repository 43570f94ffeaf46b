"""What runs the model: torch FSDP2, BMTrain, or accelerate."""
