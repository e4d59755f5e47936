"""CKA against its kernel definition, PCA against the exact decomposition in float64."""

import numpy as np
import pytest
import torch
from sklearn import decomposition

from hjepa.metrics import PCA, cka_matrix, linear_cka


def gaussian(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_cka_equals_normalised_hsic_of_the_kernels():
    x = gaussian(60, 12) + 1
    y = x[:, :5] ** 2 + gaussian(60, 5, seed=1)
    centring = torch.eye(60).double() - 1 / 60
    kx, ky = (centring @ (z.double() @ z.double().T) @ centring for z in (x, y))
    expected = (kx * ky).sum() / ((kx * kx).sum() * (ky * ky).sum()).sqrt()
    assert linear_cka(x, y) == pytest.approx(float(expected), abs=1e-9)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)


def test_cka_ignores_rotation_scale_and_offset_but_sees_difference():
    x = gaussian(2000, 16) * torch.logspace(0, -1, 16)
    turn = torch.linalg.qr(gaussian(16, 16, seed=2)).Q
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-5)
    unrelated = linear_cka(x, gaussian(2000, 16, seed=3))
    related = linear_cka(x, x + gaussian(2000, 16, seed=3))
    assert unrelated < 0.05 < related < 1


def test_cka_of_every_pair():
    levels = [gaussian(100, 8), gaussian(100, 4, seed=1), gaussian(100, 8).relu()]
    matrix = cka_matrix(levels)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(3).double())
    for i in range(3):
        for j in range(3):
            assert float(matrix[i, j]) == pytest.approx(linear_cka(levels[i], levels[j]), abs=1e-12)


def test_cka_of_constant_features_has_no_value():
    matrix = cka_matrix([gaussian(50, 4), torch.full((50, 4), 0.1)])
    assert float(matrix[0, 0]) == pytest.approx(1)
    assert matrix[0, 1].isnan()
    assert matrix[1, 1].isnan()


def test_cka_of_different_images_is_refused():
    with pytest.raises(ValueError, match="level 1: 49 images"):
        cka_matrix([gaussian(50, 4), gaussian(49, 4)])


@pytest.mark.parametrize("width", [20, 1100])
def test_pca_equals_the_exact_decomposition(width):
    features = gaussian(400, width) * torch.logspace(0, -2, width) + 3
    pca = PCA.fit(features, 6)
    reference = decomposition.PCA(6, svd_solver="full").fit(features.double().numpy())
    # scikit-learn divides by N - 1.
    np.testing.assert_allclose(pca.variance.numpy(), reference.explained_variance_ * 399 / 400, rtol=1e-3)
    share = pca.variance.sum() / pca.total_variance
    assert float(share) == pytest.approx(reference.explained_variance_ratio_.sum(), rel=1e-3)
    overlap = np.abs(np.sum(pca.components.numpy() * reference.components_, axis=1))
    np.testing.assert_allclose(overlap, 1, atol=1e-2)
    ours, theirs = pca.transform(features).numpy(), reference.transform(features.double().numpy())
    np.testing.assert_allclose(np.abs(ours).mean(0), np.abs(theirs).mean(0), rtol=1e-2)


def test_pca_is_orthonormal_deterministic_and_has_fixed_signs():
    features = gaussian(300, 30)
    pca = PCA.fit(features, 30)
    torch.testing.assert_close(pca.components @ pca.components.T, torch.eye(30), atol=1e-5, rtol=0)
    torch.testing.assert_close(pca.transform(features) @ pca.components + pca.mean, features, atol=1e-4, rtol=0)
    assert torch.equal(PCA.fit(features, 30).components, pca.components)
    rows = torch.arange(30)
    assert (pca.components[rows, pca.components.abs().argmax(dim=1)] > 0).all()
    # The mirrored features have the same axes, so the signs must be equal too.
    torch.testing.assert_close(PCA.fit(-features, 30).components, pca.components, atol=1e-5, rtol=0)
    projected = pca.transform(features)
    torch.testing.assert_close(projected.mean(0), torch.zeros(30), atol=1e-5, rtol=0)


def test_pca_of_a_wide_matrix_with_few_rows():
    features = gaussian(10, 2000)
    pca = PCA.fit(features, 9)
    assert pca.transform(features).shape == (10, 9)
    assert float(pca.variance.sum()) == pytest.approx(pca.total_variance, rel=1e-3)


def test_a_large_mean_does_not_hide_a_small_spread():
    features = gaussian(500, 8) * torch.logspace(-2, -3, 8)
    near, far = PCA.fit(features, 3), PCA.fit((features.double() + 1000).float(), 3)
    # At 1000, float32 has steps of 6e-5, a fifteenth of the smallest spread.
    torch.testing.assert_close(far.variance, near.variance, rtol=1e-2, atol=0)
    torch.testing.assert_close(far.components, near.components, atol=2e-2, rtol=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("features", [torch.full((50, 8), 0.1), gaussian(1, 8), torch.ones(5, 1)])
def test_pca_of_features_that_do_not_vary(features):
    pca = PCA.fit(features, 1)
    assert pca.variance.tolist() == pytest.approx([0.0], abs=1e-12)
    assert pca.transform(features).abs().max() < 1e-5


@pytest.mark.parametrize("components", [0, 11])
def test_impossible_number_of_components_is_refused(components):
    with pytest.raises(ValueError, match="use 1 to 10"):
        PCA.fit(gaussian(10, 30), components)
