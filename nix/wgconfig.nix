# wgconfig, which nixpkgs does not have
{
  lib,
  buildPythonPackage,
  fetchPypi,
  setuptools,
  pytestCheckHook,
}:
buildPythonPackage (finalAttrs: {
  pname = "wgconfig";
  version = "1.2.0";
  pyproject = true;

  src = fetchPypi {
    inherit (finalAttrs) pname version;
    hash = "sha256-qeVkYG2OumehOI4N9FpFf8lqyoeWyEzlksNs99TwVqI=";
  };

  build-system = [ setuptools ];

  nativeCheckInputs = [ pytestCheckHook ];
  pythonImportsCheck = [ "wgconfig" ];

  meta = {
    description = "Parsing and writing WireGuard configuration files";
    homepage = "https://github.com/towalink/wgconfig";
    license = lib.licenses.agpl3Plus;
  };
})
