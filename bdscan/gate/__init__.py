"""What a team decides beside the verdict: policy, baseline, provenance, and reports kept from earlier runs."""
