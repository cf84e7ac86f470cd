"""Historical chain data to Parquet: the operator, its engines, their staging and their writer."""
