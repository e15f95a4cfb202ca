"""The structure of a plain net, found among those that its tensors allow by what labelled clean images say."""
