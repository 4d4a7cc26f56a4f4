"""LinearGaussian and its fit (genimg_lib.distributions) against SciPy, conditioning by blocks, Monte Carlo and scikit-learn."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor

from genimg_lib.distributions import LinearGaussian, fit_linear_gaussian

f64 = torch.float64
close = torch.testing.assert_close


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def example() -> LinearGaussian:
    W, b = torch.randn(5, 2, generator=rng(0), dtype=f64), torch.randn(5, generator=rng(1), dtype=f64)
    return LinearGaussian(W, b, torch.tensor(0.3, dtype=f64))


def data(n: int = 40) -> Tensor:
    return torch.randn(n, 5, generator=rng(2), dtype=f64) @ torch.randn(5, 5, generator=rng(3), dtype=f64) + 2


def test_evidence_is_scipys():
    model, x = example(), data()
    C = model.W @ model.W.T + 0.3 * torch.eye(5, dtype=f64)
    close(model.covariance(), C)
    close(model.log_evidence(x), torch.from_numpy(stats.multivariate_normal(model.b, C).logpdf(x)))


def test_posterior_is_the_joint_conditioned_by_blocks():
    model, x = example(), data()
    gain = model.W.T @ torch.linalg.inv(model.covariance())  # cov(z, x) cov(x)⁻¹
    means, covariance = model.posterior(x)
    close(means, (x - model.b) @ gain.T)
    close(covariance, torch.eye(2, dtype=f64) - gain @ model.W)


def test_bayes_rule_holds_at_every_z():
    model, x, z = example(), data(), torch.randn(40, 2, generator=rng(4), dtype=f64)
    means, covariance = model.posterior(x)
    log_posterior = torch.distributions.MultivariateNormal(means, covariance).log_prob(z)
    close(model.log_joint(x, z) - log_posterior, model.log_evidence(x))
    many = model.log_joint(x, z.expand(3, 40, 2))  # (k, B)
    assert many.shape == (3, 40)
    close(many[2], model.log_joint(x, z))


def test_joint_is_scipys():
    model, x, z = example(), data(1), torch.tensor([[0.7, -1.2]], dtype=f64)
    mean = (model.b + 0.7 * model.W[:, 0] - 1.2 * model.W[:, 1]).numpy()
    expected = stats.norm(mean, math.sqrt(0.3)).logpdf(x).sum() + stats.norm.logpdf(z).sum()
    assert model.log_joint(x, z).item() == pytest.approx(expected, rel=1e-12)


def test_samples_have_the_models_moments():
    model, n = example(), 40_000
    x, z = model.sample(n, rng(5))
    assert x.shape == (n, 5) and z.shape == (n, 2) and x.dtype == f64
    together = torch.cat([x - model.b, z], dim=1)
    C, W = model.covariance(), model.W
    expected = torch.cat([torch.cat([C, W], dim=1), torch.cat([W.T, torch.eye(2, dtype=f64)], dim=1)])
    products = together[:, :, None] * together[:, None, :]  # (n, 7, 7)
    for samples, value in [(together, torch.zeros(7, dtype=f64)), (products, expected)]:
        assert bool(((samples.mean(0) - value).abs() < 4.5 * samples.std(0) / math.sqrt(n)).all())
    noise = (x - z @ W.T - model.b) / math.sqrt(0.3)
    assert stats.kstest(noise.flatten(), stats.norm.cdf).pvalue > 1e-4
    close(model.sample(3, rng(5)), model.sample(3, rng(5)), rtol=0, atol=0)
    assert not torch.equal(model.sample(3, rng(5))[0], model.sample(3, rng(6))[0])


def test_everything_stays_on_the_device_and_in_the_type_of_the_parameters():
    meta = torch.zeros(5, 2, device="meta", dtype=torch.float16)  # stands in for a GPU: it mixes with no other device
    model = LinearGaussian(meta, meta[:, 0], meta[0, 0])
    assert all(t.device.type == "meta" and t.dtype == torch.float16 for t in (*model.sample(3), model.covariance()))
    x = torch.zeros(3, 5, device="meta")
    posterior = LinearGaussian(meta.float(), meta.float()[:, 0], meta.float()[0, 0]).posterior(x)
    assert all(t.device.type == "meta" for t in posterior)


def test_fit_is_scikit_learns_probabilistic_pca():
    x = data()
    model, pca = fit_linear_gaussian(x, 2), PCA(2).fit(x.numpy())
    n = len(x)  # scikit-learn divides by n - 1, maximum likelihood by n
    close(model.b, torch.from_numpy(pca.mean_))
    close(model.sigma2, torch.tensor(pca.noise_variance_ * (n - 1) / n, dtype=f64))
    close(model.covariance(), torch.from_numpy(pca.get_covariance()) * (n - 1) / n)
    W = torch.from_numpy(pca.components_.T * (pca.explained_variance_ - pca.noise_variance_) ** 0.5)
    theirs = LinearGaussian(W, model.b, torch.tensor(pca.noise_variance_, dtype=f64))
    close(theirs.log_evidence(x), torch.from_numpy(pca.score_samples(x.numpy())))


def likelihood_is_stationary(fit: Callable[[Tensor, int], LinearGaussian]) -> None:
    x = data()
    model = fit(x, 2)
    parameters = [t.clone().requires_grad_() for t in (model.W, model.b, model.sigma2)]
    slopes = torch.autograd.grad(LinearGaussian(*parameters).log_evidence(x).mean(), parameters)
    for slope in slopes:
        close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)
    wiggle = [t + 0.05 * torch.randn(t.shape, generator=rng(6), dtype=f64) for t in (model.W, model.b)]
    assert LinearGaussian(*wiggle, model.sigma2).log_evidence(x).mean() < model.log_evidence(x).mean()


def test_fit_maximises_the_likelihood():
    likelihood_is_stationary(fit_linear_gaussian)


@pytest.mark.parametrize("wrong", ["1/(N-1)", "W without - σ²", "σ² the first discarded", "σ in place of σ²", "smallest first"])
def test_a_wrong_fit_is_caught(wrong):
    def fit(x: Tensor, latent_dim: int) -> LinearGaussian:
        eigenvalues, U = torch.linalg.eigh(torch.cov(x.T, correction=1 if wrong == "1/(N-1)" else 0))
        if wrong != "smallest first":
            eigenvalues, U = eigenvalues.flip(0), U.flip(1)
        discarded = eigenvalues[latent_dim:]
        sigma2 = discarded[0] if wrong == "σ² the first discarded" else discarded.mean()
        kept = eigenvalues[:latent_dim] - (0 if wrong == "W without - σ²" else sigma2)
        W = U[:, :latent_dim] * kept.abs().sqrt()
        return LinearGaussian(W, x.mean(0), sigma2.sqrt() if wrong == "σ in place of σ²" else sigma2)

    with pytest.raises(AssertionError):
        likelihood_is_stationary(fit)


@pytest.mark.parametrize("dim", [3, 7, 11])
def test_equal_eigenvalues_leave_no_latent(dim):
    cross = torch.cat([torch.eye(dim), -torch.eye(dim)])  # covariance exactly I/dim: rounding must not reach the square root
    for latent_dim in range(1, dim):
        model = fit_linear_gaussian(cross, latent_dim)
        assert model.W.abs().max() < 1e-3
        close(model.sigma2, torch.tensor(1 / dim))


@pytest.mark.parametrize("latent_dim", [0, 4, 5])
def test_an_impossible_latent_dim_is_refused(latent_dim):
    message = f"latent_dim must lie between 1 and 3 for data of shape (4, 5), got {latent_dim}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fit_linear_gaussian(data(4), latent_dim)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_without_noise_are_refused(dtype):
    message = "the data lie in 2 or fewer dimensions, so σ² = 0 and the likelihood is unbounded"
    for seed in range(10):
        z = torch.randn(50, 2, generator=rng(seed), dtype=dtype)
        directions = torch.randn(9, 2, generator=rng(seed + 10), dtype=dtype)
        for scale in ([1e3, 1e3], [1.0, 1e-2]):  # σ² is judged against the largest eigenvalue
            flat = z @ (directions * torch.tensor(scale, dtype=dtype)).T
            assert fit_linear_gaussian(flat, 1).sigma2 > 0
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                fit_linear_gaussian(flat, 2)
    with pytest.raises(ValueError, match="unbounded"):
        fit_linear_gaussian(torch.ones(10, 4, dtype=dtype), 1)
