# Labels customers with the segments of a stream. Before: streamseg export --to r -o segments.csv
source("segments.R")
customers <- na.omit(read.csv("customer_data.csv")[c("age", "income", "purchases")])
write.csv(data.frame(customers, segment = segment_of(customers, "segments.csv")), "labelled.csv", row.names = FALSE)
