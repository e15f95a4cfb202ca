"""What everything else speaks of: findings, failures, problems. Standard library and numpy only."""
