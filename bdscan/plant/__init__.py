"""Known triggers, planted so that what finds and removes backdoors can be measured."""
