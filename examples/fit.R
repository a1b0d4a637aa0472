# The same in base R. Then: streamseg import r model.csv -o model.json
table <- na.omit(read.csv("customer_data.csv"))
customers <- table[c("age", "income", "purchases")]
x <- scale(customers)
set.seed(1)
km <- kmeans(x, centers = 3)
write.csv(rbind(scaled.center = attr(x, "scaled:center"), scaled.scale = attr(x, "scaled:scale"), km$centers), "model.csv")
write.csv(data.frame(table, segment = km$cluster), "labels.csv", row.names = FALSE)
print(aggregate(customers, list(cluster = km$cluster), mean))
