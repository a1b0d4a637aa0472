"""The same with Spark MLlib. Then: streamseg import mllib spark-model -o model.json"""

from pyspark.ml import Pipeline
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import StandardScaler, VectorAssembler
from pyspark.sql import SparkSession

columns = ["age", "income", "purchases"]
spark = SparkSession.builder.master("local[2]").getOrCreate()
customers = spark.read.csv("customer_data.csv", header=True, inferSchema=True).select(columns).dropna()
model = Pipeline(
    stages=[
        VectorAssembler(inputCols=columns, outputCol="raw"),
        StandardScaler(withMean=True, withStd=True, inputCol="raw", outputCol="features"),
        KMeans().setK(5).setSeed(1),
    ]
).fit(customers)
model.write().overwrite().save("spark-model")
model.transform(customers).groupBy("prediction").count().show()
