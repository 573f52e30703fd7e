"""Trains a head of your own on the features of a pretrained convolutional net.

The convolutions were trained on clothes and are frozen. A new head learns to tell even
from odd digits, which the convolutions have never seen.
"""

import keras

import zoo


def main(images: int = 500, epochs: int = 20) -> None:
    keras.utils.set_random_seed(0)
    x, y = zoo.load_dataset("digits-sample", "train", as_="numpy")
    x, y = x[:images], y[:images] % 2
    test_x, test_y = zoo.load_dataset("digits-sample", "validation", as_="numpy")

    extractor = zoo.ConvNet(weights="fashion_mnist", include_top=False)
    extractor.trainable = False
    pixels = keras.Sequential([keras.layers.Rescaling(1 / 255)], name="pixels")
    for features in (pixels, extractor):
        head = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential([keras.Input((28, 28, 1)), features, *head])
        model.compile("adam", "sparse_categorical_crossentropy")
        model.fit(x, y, epochs=epochs, verbose=0)
        accuracy = zoo.evaluate(model, (test_x, test_y % 2))["accuracy"]
        print(f"{features.name:10} {accuracy:.1%}")


if __name__ == "__main__":
    main()
