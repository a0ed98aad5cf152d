# What the tests share: a provider, and a machine with a service that is confined to the tunnel to it. The keys are
# public by being here: use them nowhere else.
let
  keys = {
    provider = {
      private = "0D/t4kOavBWWm4L2VysLlmW6N/FipkkabCpq3anXgFI=";
      public = "P8pbtHohOrSANiDSUzFGvX4QTt1EEQwSHDayL9r8zBo=";
    };
    machine = {
      private = "yLfYnzAWSUBaHeiLIlI0OFDdXwqEMtWgYFi7n9Frc2w=";
      public = "NTz4kfvDr5scWTrvYJql6rcwdbFvUCPusZKdDn/iehs=";
    };
  };
in
{
  # A page, which says from where it was asked for, at the far side of the tunnel and outside of it
  nodes.provider = {
    networking.firewall.enable = false;
    networking.wireguard.interfaces.wg0 = {
      ips = [ "10.64.0.1/24" ];
      listenPort = 51820;
      privateKey = keys.provider.private;
      peers = [
        {
          publicKey = keys.machine.public;
          allowedIPs = [ "10.64.0.2/32" ];
        }
      ];
    };
    services.nginx = {
      enable = true;
      virtualHosts.default.locations."/".return = "200 $remote_addr";
    };
  };

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ../module.nix ];
      environment.systemPackages = [
        pkgs.curl
        pkgs.wireguard-tools
      ];
      my.wireguard = {
        enable = true;
        address.IPv4 = "10.64.0.2/32";
        peer = keys.provider.public;
        endpoint = "provider:51820";
        privateKey = "/root/wg.key";
        persistentKeepalive = 1;
      };
      systemd.services.confined = {
        wireguardTunnel = "wg";
        wantedBy = [ "multi-user.target" ];
        serviceConfig.ExecStart = "${pkgs.coreutils}/bin/sleep infinity";
      };
    };

  _module.args = {
    # Starts both; the machine's tunnel waits for its key.
    prologue = ''
      def add_key() -> None:
          machine.succeed("umask 077 && echo ${keys.machine.private} > /root/wg.key")

      def inside(command: str) -> str:
          return f"nsenter --net --target $(systemctl show --property MainPID --value confined) {command}"

      start_all()
      provider.wait_for_unit("nginx.service")
      provider.wait_for_unit("wireguard-wg0.service")
    '';
    privateKey = keys.machine.private;
  };
}
