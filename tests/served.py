"""What tests of serving share: images, a small model that tells them apart, and a real server."""

import io
import socket
import threading
import time
from contextlib import contextmanager

import numpy as np
import uvicorn
from PIL import Image, ImageDraw

from frostline.models.saving import save_model
from frostline.runtime.quiet_tensorflow import keras
from frostline.serving.refusals import Connection

SIZE = 32
CLASSES = ("field", "ball")


def ball(kind="JPEG", mode="RGB", width=480, height=360):
    """An image file: a yellow ball on the left of a green field."""
    image = Image.new("RGB", (width, height), (30, 90, 50))
    left, top, side = width // 16, height // 4, height // 2
    ImageDraw.Draw(image).ellipse((left, top, left + side, top + side), (250, 220, 80))
    return _file(image, kind, mode)


def field(kind="JPEG", mode="RGB"):
    """An image file without a ball."""
    return _file(Image.new("RGB", (480, 360), (30, 90, 50)), kind, mode)


def _file(image, kind, mode):
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, kind)
    return buffer.getvalue()


def write_model(path, classes=CLASSES, fit="squash"):
    """Write a model whose last class' score is what an image has more of red than of blue; the others' is constant.

    Two classes end in a sigmoid, more in softmax, as the recipe's do.
    """
    inputs = keras.Input((SIZE, SIZE, 3), name="images")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(3, 4, strides=4, activation="relu", name="cut")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    units = 1 if len(classes) == 2 else len(classes)
    outputs = keras.layers.Dense(units, activation="sigmoid" if units == 1 else "softmax")(x)
    model = keras.Model(inputs, outputs)
    channels = np.zeros((4, 4, 3, 3))
    channels[:, :, range(3), range(3)] = 1 / 16  # the mean of each place, channel by channel
    model.get_layer("cut").set_weights([channels, np.zeros(3)])
    scores = np.zeros((3, units))
    scores[:, -1] = 40, 0, -40
    model.layers[-1].set_weights([scores, np.zeros(units)])
    save_model(model, path, classes, fit)


@contextmanager
def serving(application):
    """Serve `application` at a free port of this machine; yield its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(application, log_level="critical", http=Connection))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
