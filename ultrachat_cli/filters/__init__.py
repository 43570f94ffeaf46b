"""What makes a dialogue unfit, whoever made it: used while dialogues are generated and on finished files."""
