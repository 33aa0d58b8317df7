module holdfast.dev/recipe/minio-start

go 1.26.0
