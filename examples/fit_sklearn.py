"""The batch script of many: scale, k-means, save. Then: streamseg import sklearn pipeline.skops -o model.json"""

import pandas as pd
import skops.io
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

table = pd.read_csv("customer_data.csv", index_col="customer_id")
customers = table[["age", "income", "purchases"]].dropna()
pipeline = make_pipeline(StandardScaler(), KMeans(n_clusters=5, random_state=0)).fit(customers)
skops.io.dump(pipeline, "pipeline.skops")
customers.assign(segment=pipeline.predict(customers)).to_csv("labels.csv")
print(customers.groupby(pipeline.predict(customers)).mean())
