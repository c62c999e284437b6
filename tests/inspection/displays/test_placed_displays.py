"""Features drawn in pictures and series, against codes and places made by hand."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from torch import nn

from skdict.feature_extraction import ActivationExtractor
from skdict.inspection import FeatureHeatmapDisplay, FeatureSeriesDisplay

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


def grid_of(n_documents, height, width):
    """Positions of rows in the order of an activation (n_documents, height, width)."""
    document, y, x = np.indices((n_documents, height, width)).reshape(3, -1)
    return {"document": document, "y": y, "x": x}


@pytest.fixture
def codes():
    """Codes (4 pictures, 2 x 3 places, 2 features); feature 1 is greatest in 2, then in 0."""
    codes = np.zeros((4, 2, 3, 2))
    codes[2, 0, 2, 1], codes[2, 1, 2, 1] = 4, 1
    codes[0, 1, 0, 1] = 3
    codes[3, 0, 0, 1] = 0.5
    codes[1, :, :, 0] = 9
    return codes


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(size=(4, 3, 8, 6))


# Pictures without an axis of channels.
FLAT = np.zeros((4, 8, 6))


class TestHeatmap:
    @pytest.mark.parametrize("container", [np.asarray, csr_array, torch.tensor])
    def test_the_greatest_first(self, container, codes, images):
        display = FeatureHeatmapDisplay.from_codes(
            container(codes.reshape(-1, 2)), grid_of(4, 2, 3), images, 1, n_images=2
        )
        assert_array_equal(display.documents, [2, 0])
        assert_array_equal(display.maps, codes[[2, 0], :, :, 1])
        assert_array_equal(display.images, np.moveaxis(images[[2, 0]], 1, -1))
        assert [axis.get_title() for axis in display.axes_] == ["2: 4", "0: 3"]

    def test_where_it_is_drawn(self, codes, images):
        display = FeatureHeatmapDisplay.from_codes(
            codes.reshape(-1, 2), grid_of(4, 2, 3), images, 1
        )
        assert len(display.axes_) == 3  # active in three
        picture, heat = display.axes_[0].get_images()
        assert picture.get_extent() == heat.get_extent() == [-0.5, 5.5, 7.5, -0.5]
        assert_array_equal(heat.get_array(), codes[2, :, :, 1])
        assert {axis.get_images()[1].get_clim() for axis in display.axes_} == {(0, 4)}
        assert heat.cmap(0.0)[3] == 0  # what is not active does not hide the picture

    @pytest.mark.parametrize(
        ("crop", "x", "y"), [(2, (4, 6), (1, 3)), (3, (3, 6), (0, 3)), (99, (0, 6), (0, 8))]
    )
    def test_crops(self, crop, x, y, codes, images):
        """The greatest place of picture 2 is the upper right of 2 x 3, centred at (2, 5)."""
        display = FeatureHeatmapDisplay.from_codes(
            codes.reshape(-1, 2), grid_of(4, 2, 3), images, 1, crop=crop
        )
        axis = display.axes_[0]
        assert len(axis.get_images()) == 1
        assert axis.get_xlim() == (x[0] - 0.5, x[1] - 0.5)
        assert axis.get_ylim() == (y[1] - 0.5, y[0] - 0.5)

    @pytest.mark.parametrize(
        ("shape", "channel_axis", "expected"),
        [
            ((4, 8, 6), "auto", (8, 6)),
            ((4, 1, 8, 6), "auto", (8, 6)),
            ((4, 8, 6, 1), "auto", (8, 6)),
            ((4, 8, 6, 3), "auto", (8, 6, 3)),
            ((4, 3, 8, 3), -1, (3, 8, 3)),
            ((4, 3, 8, 3), 1, (8, 3, 3)),
        ],
    )
    def test_channels(self, shape, channel_axis, expected, codes):
        images = np.random.default_rng(0).uniform(size=shape)
        display = FeatureHeatmapDisplay.from_codes(
            codes.reshape(-1, 2), grid_of(4, 2, 3), images, 1, channel_axis=channel_axis
        )
        assert display.images.shape[1:] == expected
        plain = images[2]
        if len(shape) == 4:
            plain = np.moveaxis(plain, 0 if shape[1] < 8 and channel_axis != -1 else -1, -1)
        assert_array_equal(display.images[0], plain.reshape(expected))

    def test_levels(self, codes):
        positions, codes = grid_of(4, 2, 3), codes.reshape(-1, 2)
        images = np.random.default_rng(0).integers(0, 256, size=(4, 8, 6)).astype(np.uint8)
        display = FeatureHeatmapDisplay.from_codes(codes, positions, images, 1)
        assert_array_equal(display.images, images[[2, 0, 3]] / 255)
        normalised = images.astype(np.float64) - 100
        display = FeatureHeatmapDisplay.from_codes(codes, positions, normalised, 1)
        shown = normalised[[2, 0, 3]]
        assert_allclose(display.images, (shown - shown.min()) / np.ptp(shown), rtol=1e-12)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            ({"images": np.zeros((4, 3, 8, 3))}, r"both of axis 1 and axis -1.* channel_axis=1"),
            ({"images": np.zeros((4, 2, 8, 6))}, r"neither of axis 1 and axis -1"),
            ({"images": np.zeros((4, 2, 8, 6)), "channel_axis": 1}, r"has 2 entries, but 1 or 3"),
            (
                {"images": FLAT, "channel_axis": 1},
                r"\(4, 8, 6\), without an axis of channels, but",
            ),
            ({"images": FLAT, "channel_axis": -1}, r"but channel_axis=-1 names one"),
            ({"images": np.zeros((4, 8))}, r"images must have 3 axes, or 4 with one of channels"),
            ({"images": np.zeros((2, 8, 6))}, r"documents from 0 to 3, but images has 2 entries"),
            ({"feature": 2}, r"feature has 2, but there are 2"),
            ({"positions": {"document": np.zeros(24, int)}}, r"positions has no \['y', 'x'\]"),
            ({"positions": grid_of(4, 2, 2)}, r"There are 24 rows, but positions has columns"),
            ({"positions": grid_of(4, 2, 3) | {"y": np.full(24, -1)}}, "has -1 among document, y"),
            ({"X": np.zeros((24, 2))}, r"feature=1 is not active on any of the 24 rows"),
            ({"n_images": 0}, "'n_images' parameter"),
            ({"channel_axis": 2}, "'channel_axis' parameter"),
            ({"crop": 0}, "'crop' parameter"),
            ({"ax": np.array([])}, "ax has 0 axes, but there are 3 pictures"),
        ],
    )
    def test_bad_input(self, change, match, codes, images):
        given = {
            "X": codes.reshape(-1, 2),
            "positions": grid_of(4, 2, 3),
            "images": images,
            "feature": 1,
        }
        with pytest.raises(ValueError, match=match):
            FeatureHeatmapDisplay.from_codes(**(given | change))

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ((np.zeros((2, 4)), np.zeros((2, 1, 1))), "images must have shape"),
            ((np.zeros((2, 4, 4)), np.zeros((3, 1, 1))), r"images must have shape \(3, height"),
            ((np.zeros((2, 4, 4)), np.zeros((2, 0, 1))), "maps must have shape"),
            ((np.zeros((2, 4, 4)), np.zeros((2, 1, 1)), [1]), "documents must number each"),
        ],
    )
    def test_bad_arrays(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            FeatureHeatmapDisplay(*arguments)

    def test_from_a_network(self):
        """A unit that looks for a bright pixel lights up where there is one."""
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
        with torch.no_grad():
            network[0].weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
            network[0].bias.zero_()
        images = np.zeros((3, 1, 5, 7), dtype=np.float32)
        images[1, 0, 3, 4] = 1
        extractor = ActivationExtractor(network, "1", tokenizer=None, batch_size=2)
        positions = extractor.positions(images)
        dictionary = MaxAbsScaler().fit(extractor.transform(images))  # codes are neurons
        display = FeatureHeatmapDisplay.from_codes(
            images, positions, images, 0, dictionary=make_pipeline(extractor, dictionary)
        )
        assert display.documents.tolist() == [1]
        assert np.argwhere(display.maps[0] > 0).tolist() == [[3, 4]]


class TestSeries:
    @pytest.fixture
    def positions(self):
        document, time = np.indices((3, 5)).reshape(2, -1)
        return {"document": document, "time": time}

    @pytest.fixture
    def codes(self):
        codes = np.zeros((3, 5, 1))
        codes[1, :, 0] = [1, 2, 0, 0, 4]
        codes[2, :, 0] = [0, 0, 9, 0, 0]
        return codes

    def test_spans(self, codes, positions):
        series = np.random.default_rng(0).normal(size=(3, 2, 10))
        display = FeatureSeriesDisplay.from_codes(
            codes.reshape(-1, 1), positions, series, 0, channel_axis=1
        )
        assert display.documents.tolist() == [2, 1]
        assert display.spans == [[(4, 6, 9)], [(0, 4, 2), (8, 10, 4)]]
        lines = display.axes_[1].get_lines()
        assert_array_equal([line.get_ydata() for line in lines], series[1])
        edges = [(patch.get_x(), patch.get_width()) for patch in display.axes_[1].patches]
        assert edges == [(-0.5, 4), (7.5, 2)]
        opacity = [patch.get_alpha() for patch in display.axes_[1].patches]
        assert opacity[0] < opacity[1] < display.axes_[0].patches[0].get_alpha()

    @pytest.mark.parametrize("shape", [(3, 10), (3, 1, 10), (3, 10, 1)])
    def test_one_channel(self, shape, codes, positions):
        series = np.random.default_rng(0).normal(size=shape)
        display = FeatureSeriesDisplay.from_codes(
            codes.reshape(-1, 1), positions, series, 0, n_series=1
        )
        assert_array_equal(display.series[0, :, 0], series[2].ravel())
        assert len(display.axes_) == 1

    @pytest.mark.parametrize(
        ("series", "match"),
        [
            (np.zeros((3, 2, 10)), "neither of axis 1 and axis -1"),
            (np.zeros((3, 1, 1)), "both of axis 1 and axis -1"),
            (np.zeros(3), "series must have 2 axes, or 3 with one of channels"),
            (np.zeros((1, 10)), "documents from 0 to 2, but series has 1 entries"),
        ],
    )
    def test_bad_input(self, series, match, codes, positions):
        with pytest.raises(ValueError, match=match):
            FeatureSeriesDisplay.from_codes(codes.reshape(-1, 1), positions, series, 0)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ((np.zeros(2), np.zeros((2, 1))), "series must have shape"),
            ((np.zeros((2, 4)), np.zeros((3, 1))), r"series must have shape \(3, n_steps"),
            ((np.zeros((2, 4)), np.zeros((2, 0))), "maps must have shape"),
            ((np.zeros((2, 4)), np.zeros((2, 1)), [1]), "documents must number each"),
        ],
    )
    def test_bad_arrays(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            FeatureSeriesDisplay(*arguments)

    def test_fewer_axes(self, codes, positions):
        axes = matplotlib.pyplot.subplots(1)[1]
        with pytest.raises(ValueError, match="ax has 1 axes, but there are 2 series"):
            FeatureSeriesDisplay.from_codes(
                codes.reshape(-1, 1), positions, np.zeros((3, 10)), 0, ax=axes
            )
