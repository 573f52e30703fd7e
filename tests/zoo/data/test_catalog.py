import tensorflow_datasets as tfds

from zoo.data.datasets import dataset_info


def test_described_datasets_agree_with_tfds(tmp_path):
    for name in "mnist", "fashion_mnist":
        info, builder = dataset_info(name), tfds.builder(name, data_dir=tmp_path)
        assert info.version == str(builder.version)
        assert info.image_shape == builder.info.features["image"].shape
        assert list(info.classes) == builder.info.features["label"].names
        assert info.source == builder.info.homepage
        assert {
            file.url: (file.name, file.size, file.sha256) for file in info.files
        } == {
            url: (registered.filename, registered.size, registered.checksum)
            for url, registered in builder.url_infos.items()
        }
