"""The hardware of this machine, its speed, and progress on its terminal."""
