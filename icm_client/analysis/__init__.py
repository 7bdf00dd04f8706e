"""What can be said of labels once they have been found."""
