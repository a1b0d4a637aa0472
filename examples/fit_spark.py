"""The same with Spark MLlib. Then: streamseg import mllib spark-model -o model.json"""

from pyspark.ml import Pipeline
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession

columns = ["age", "income", "purchases"]
spark = SparkSession.builder.master("local[2]").getOrCreate()
customers = spark.read.csv("customer_data.csv", header=True, inferSchema=True).dropna(subset=columns)
model = Pipeline(
    stages=[
        VectorAssembler(inputCols=columns, outputCol="raw"),
        StandardScaler(withMean=True, withStd=True, inputCol="raw", outputCol="features"),
        KMeans().setK(5).setSeed(1),
    ]
).fit(customers)
model.write().overwrite().save("spark-model")
labelled = model.transform(customers).withColumnRenamed("prediction", "segment")
labelled.select("customer_id", "segment").toPandas().to_csv("labels.csv", index=False)
labelled.groupBy("segment").count().show()
