"""The fitted figures of generated traffic, typed in from what bench/fit_generators.py prints.

Goodness: KS is the two-sample Kolmogorov-Smirnov distance between the trace and as many generated requests (two
samples of 10,000 of the same distribution differ by 0.012 on average); dispersion is variance / mean of the arrivals
counted in windows. Sources: Azure LLM inference traces 2023 (Patel et al., Splitwise, ISCA 2024; CC-BY 4.0), the
length files of Vidur (Agrawal et al., MLSys 2024; MIT), the Mooncake conversation trace (Qin et al., FAST 2025;
Apache-2.0).
"""

from dataclasses import dataclass

from rota.worlds.serving.arrivals import Variation

Quantiles = tuple[tuple[float, float], ...]  # (normal score, tokens): the quantile function, log-linear in between


@dataclass(frozen=True)
class Kind:
    """The fitted figures of one kind of traffic."""

    about: str  # source and goodness of fit
    prompt: Quantiles
    output: Quantiles
    correlation: float  # of the two normal scores
    rate: float  # requests a second of the source
    variation: Variation | None


# fmt: off
KINDS: dict[str, Kind] = {
    "chat": Kind(
        about=(
            "Azure 2023 conversations, 19,366 requests in 58 minutes; KS distance 0.010 (prompt), 0.012 (output);"
            " dispersion of counts over 1, 10, 60, 120 s: 1.3, 3.7, 15, 26 (trace 1.4, 3.9, 16, 30)"
        ),
        prompt=(
            (-3.446, 2.3), (-2.996, 8.3), (-2.499, 19.6), (-1.999, 119.9), (-1.802, 180.5), (-1.577, 181.5),
            (-1.466, 199.5), (-1.214, 212.5), (-1.118, 243.0), (-1.061, 368.0), (-1.0, 374.2), (-0.793, 390.7),
            (-0.496, 404.6), (-0.418, 410.1), (-0.338, 422.4), (-0.294, 438.8), (-0.225, 868.7), (-0.152, 970.9),
            (-0.097, 995.9), (0.0, 1020.1), (0.485, 1118.9), (0.645, 1171.5), (0.772, 1311.3), (0.871, 1318.7),
            (0.911, 1359.2), (1.0, 1714.1), (1.291, 2766.4), (1.384, 4068.6), (1.423, 4074.5), (2.0, 4094.3),
            (2.424, 4164.5), (2.502, 4548.7), (3.008, 5981.3), (3.5, 7096.3),
        ),
        output=(
            (-3.446, 11.0), (-2.996, 11.8), (-2.499, 13.9), (-2.067, 18.5), (-1.999, 27.3), (-1.63, 42.0),
            (-1.0, 68.6), (-0.705, 83.8), (-0.385, 96.0), (-0.225, 104.7), (-0.112, 114.1), (0.0, 129.4),
            (0.291, 183.5), (0.359, 216.5), (0.397, 217.6), (0.44, 370.7), (0.608, 392.5), (0.814, 398.4),
            (1.0, 410.5), (1.439, 429.9), (1.651, 451.8), (2.0, 531.4), (2.502, 626.6), (3.008, 939.1),
            (3.5, 1000.0),
        ),
        correlation=0.076,
        rate=5.53,
        variation=Variation(0.23, 149.1),
    ),
    "code": Kind(
        about=(
            "Azure 2023 code completion, 8,819 requests in 57 minutes; KS distance 0.015 (prompt), 0.011 "
            "(output); dispersion of counts over 1, 10, 60, 120 s: 12, 81, 160, 168 (trace 13, 72, 164, 206); cv "
            "of gaps 14 (trace 13)"
        ),
        prompt=(
            (-3.447, 4.4), (-2.985, 7.1), (-2.495, 13.7), (-1.998, 40.0), (-1.0, 250.5), (-0.764, 479.4),
            (-0.552, 747.5), (-0.428, 893.8), (-0.198, 1137.6), (0.0, 1468.7), (0.325, 2068.3), (0.717, 2828.2),
            (1.0, 3742.2), (1.301, 5456.6), (1.653, 7372.5), (1.707, 7423.3), (1.781, 7434.2), (2.0, 7435.6),
            (2.502, 7436.4), (3.011, 7436.8), (3.583, 7437.3),
        ),
        output=(
            (-3.447, 5.5), (-2.985, 5.5), (-2.495, 5.6), (-1.998, 5.8), (-1.555, 6.2), (-1.237, 6.8), (-1.0, 7.6),
            (-0.799, 8.5), (-0.513, 9.5), (0.0, 13.1), (0.249, 15.6), (0.524, 19.8), (1.0, 36.7), (2.0, 153.6),
            (2.502, 310.1), (3.011, 792.1), (3.583, 1276.0),
        ),
        correlation=-0.022,
        rate=2.57,
        variation=Variation(2.12, 8.3),
    ),
    "summarise": Kind(
        about=(
            "arXiv summarisation lengths of Vidur, 28,257 requests; KS distance 0.012 (prompt), 0.010 (output); "
            "the source has no arrivals: Poisson at 1 request a second is a convention"
        ),
        prompt=(
            (-3.465, 0.6), (-2.997, 1.0), (-2.5, 43.3), (-2.0, 282.8), (-1.715, 662.0), (-1.427, 1039.8),
            (-1.0, 1608.6), (-0.829, 1817.6), (-0.515, 2163.6), (0.0, 2729.9), (0.39, 3132.6), (0.625, 3334.5),
            (1.0, 3578.9), (1.257, 3694.6), (1.527, 3785.4), (2.0, 3883.6), (2.502, 3955.3), (3.005, 4005.6),
            (3.503, 4034.6),
        ),
        output=(
            (-3.465, 13.6), (-2.997, 21.2), (-2.5, 31.3), (-2.0, 46.1), (-1.0, 94.4), (0.0, 166.9), (0.477, 215.9),
            (1.0, 297.2), (1.463, 453.3), (2.0, 2644.4), (2.502, 3503.5), (3.005, 3825.6), (3.503, 3998.9),
        ),
        correlation=-0.119,
        rate=1.0,
        variation=None,
    ),
    "burst": Kind(
        about=(
            "ShareGPT lengths of Vidur, 10,000 requests; KS distance 0.013 (prompt), 0.010 (output); arrivals of "
            "Azure 2023 code: bursts of 10 s at 5.5 times the mean rate, then 45 s of silence, on average"
        ),
        prompt=(
            (-3.481, 1.5), (-3.0, 1.6), (-2.498, 1.9), (-1.998, 3.6), (-1.505, 7.5), (-1.0, 11.4), (-0.486, 18.5),
            (-0.183, 26.4), (0.0, 34.9), (0.276, 57.6), (0.562, 108.2), (1.0, 363.6), (1.316, 833.8),
            (1.472, 1138.1), (2.0, 2206.8), (2.503, 3142.5), (3.023, 3703.4), (3.615, 3972.6),
        ),
        output=(
            (-3.481, 4.2), (-3.0, 5.6), (-2.498, 7.3), (-1.998, 12.0), (-1.204, 49.8), (-1.0, 83.0),
            (-0.442, 189.0), (-0.211, 243.4), (0.0, 285.9), (1.0, 555.7), (1.429, 751.1), (2.0, 945.5),
            (2.503, 1036.8), (3.023, 1114.6), (3.615, 1346.3),
        ),
        correlation=0.145,
        rate=2.57,
        variation=Variation(2.12, 8.3),
    ),
}
# Tokens that a follow-up adds to all that was said before it: Mooncake, 3,959 follow-ups, those that shorten left out.
ADDED: Quantiles = (
    (-3.333, 0.6), (-2.953, 1.0), (-2.487, 2.5), (-1.995, 4.9), (-1.362, 7.0), (-0.999, 9.3), (-0.774, 11.1),
    (-0.477, 15.4), (-0.06, 30.4), (0.0, 35.8), (0.222, 72.3), (0.491, 258.9), (0.707, 563.7), (0.869, 1758.4),
    (1.0, 2964.8), (1.08, 3596.8), (2.0, 11741.6), (2.503, 21604.7), (3.014, 37468.5), (3.628, 91466.7),
)
# fmt: on
