"""One picture of every customer: columns for each feature, a row for each customer."""
